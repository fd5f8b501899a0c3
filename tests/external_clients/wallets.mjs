// Drives the signer's JSON-RPC as viem and ethers do, sends the result to a real node,
// and prints what happened as one JSON object. Reads its settings from standard input;
// the signer's authority comes from NODE_EXTRA_CA_CERTS.
import { readFileSync } from 'node:fs'
import { createPublicClient, createWalletClient, custom, defineChain, http, parseEther } from 'viem'
import { verifyMessage, verifyTypedData } from 'viem'
import { FetchRequest, JsonRpcProvider, JsonRpcSigner, Network, Transaction, ethers } from 'ethers'

const settings = JSON.parse(readFileSync(0, 'utf8'))
const token = readFileSync(settings.tokenFile, 'utf8').trim()
const authorization = `Bearer ${token}`
const report = {}

async function askSigner(method, params) {
  const response = await fetch(settings.signer, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }),
  })
  const answer = await response.json()
  if (answer.error) throw Object.assign(new Error(answer.error.message), { code: answer.error.code })
  return answer.result
}

const OF_THE_SIGNER = new Set([
  'eth_accounts', 'eth_requestAccounts', 'eth_sign', 'personal_sign',
  'eth_signTypedData', 'eth_signTypedData_v4', 'eth_signTransaction',
])
const typedData = {
  domain: { name: 'Ether Mail', version: '1', chainId: 31337, verifyingContract: '0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC' },
  types: {
    Person: [{ name: 'name', type: 'string' }, { name: 'wallet', type: 'address' }],
    Mail: [{ name: 'from', type: 'Person' }, { name: 'to', type: 'Person' }, { name: 'contents', type: 'string' }],
  },
  primaryType: 'Mail',
  message: {
    from: { name: 'Cow', wallet: '0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826' },
    to: { name: 'Bob', wallet: '0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB' },
    contents: 'Hello, Bob!',
  },
}
const recipient = '0xa5D3241A1591061F2a4bB69CA0215F66520E67cf'

// --- viem: a wallet client whose transport sends signing to the signer, the rest to the node
const chain = defineChain({
  id: 31337, name: 'anvil', nativeCurrency: { name: 'Ether', symbol: 'ETH', decimals: 18 },
  rpcUrls: { default: { http: [settings.node] } },
})
const node = createPublicClient({ chain, transport: http(settings.node) })
const transport = custom({
  request: ({ method, params }) =>
    OF_THE_SIGNER.has(method) ? askSigner(method, params) : node.request({ method, params }),
})
const account = settings.address
const wallet = createWalletClient({ account, chain, transport })
const addresses = await wallet.getAddresses()
report.viemAccounts = addresses.includes(account)
const message = 'nitrosigner speaks viem'
report.viemMessage = await verifyMessage({ address: account, message, signature: await wallet.signMessage({ message }) })
report.viemTypedData = await verifyTypedData({ address: account, ...typedData, signature: await wallet.signTypedData(typedData) })
const request = await wallet.prepareTransactionRequest({ to: recipient, value: parseEther('0.01') })
const raw = await wallet.signTransaction(request)
const sent = await node.sendRawTransaction({ serializedTransaction: raw })
const receipt = await node.waitForTransactionReceipt({ hash: sent })
report.viemTransaction = receipt.status === 'success' && receipt.from.toLowerCase() === account.toLowerCase()

// --- ethers: its own JsonRpcSigner over HTTP to the signer
const fetcher = new FetchRequest(settings.signer)
fetcher.setHeader('authorization', authorization)
const provider = new JsonRpcProvider(fetcher, Network.from(31337), { staticNetwork: true })
const chainNode = new JsonRpcProvider(settings.node, Network.from(31337), { staticNetwork: true })
const signer = new JsonRpcSigner(provider, account)
report.ethersMessage = ethers.verifyMessage('nitrosigner speaks ethers', await signer.signMessage('nitrosigner speaks ethers')) === account
report.ethersTypedData = ethers.verifyTypedData(typedData.domain, typedData.types, typedData.message,
  await signer.signTypedData(typedData.domain, typedData.types, typedData.message)) === account
const fees = await chainNode.getFeeData()
const unsigned = {
  from: account, to: recipient, value: '0x' + parseEther('0.02').toString(16), type: '0x2', chainId: '0x7a69',
  nonce: ethers.toQuantity(await chainNode.getTransactionCount(account)), gas: '0x5208',
  maxFeePerGas: ethers.toQuantity(fees.maxFeePerGas), maxPriorityFeePerGas: ethers.toQuantity(fees.maxPriorityFeePerGas),
}
const ethersRaw = await provider.send('eth_signTransaction', [unsigned])
report.ethersDecodes = Transaction.from(ethersRaw).from === account
const response = await chainNode.broadcastTransaction(ethersRaw)
report.ethersTransaction = (await response.wait()).status === 1

// --- what must not work
try {
  await askSigner('eth_signTransaction', [{ ...unsigned, chainId: '0x539' }])
  report.foreignChainRefused = false
} catch (error) {
  report.foreignChainRefused = Number.isInteger(error.code)
}
const anonymous = await fetch(settings.signer, {
  method: 'POST', headers: { 'content-type': 'application/json' },
  body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'eth_accounts', params: [] }),
})
report.anonymousRefused = anonymous.status === 401
provider.destroy(); chainNode.destroy()
console.log(JSON.stringify(report))
